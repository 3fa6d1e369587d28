"""Attach a policy to a pipeline's denoisers, or wrap it around a plain function.

Attaching affects one module instance, never its class, and can be undone.

    accelerate.py      fs.accelerate, fs.detach: find the denoisers, put a hook on each
    obstacles.py       what stands in the way: another cache, a compiled whole, other rows
    denoiser_hook.py   one denoiser's calls: computed or forecast
    handle.py          what the user holds; run_record.py: what happened in one run
    wrap.py            fs.wrap: a user's own sampling loop
    interception.py    intercept one module's calls, and receive diffusers' cache contexts

    run/               which run, step and branch a call belongs to
      scheduler_watch  counts runs: each set_timesteps begins one
      scheduler_identity  class and configuration, compared with those that a plan names
      step_reader      the step, from the scheduler's own state
      guard            the fingerprint of a call, and the constant arguments of a branch
      network_state    one walk over the modules per run; adapters and processors at each call
      tracker          puts these together, and compiles the policy when a branch begins

    network/           what a network is made of, found by watching one forward pass; no class names
      call, containers, denoisers, architecture
      boundary         between blocks and head            module_finder    attention and MLP modules
      block_trace      streams from block to block        interceptor      answer the calls of submodules
      required_modules, verification                      verify a site by bitwise equal outputs

    sites/             where a feature is taken: output, last_block, modules, tokens, residual
    signals/           what gates measure inside a network before they decide

A call goes: interception -> denoiser_hook -> tracker (run, step, branch) -> the branch's rows -> the site.
"""
