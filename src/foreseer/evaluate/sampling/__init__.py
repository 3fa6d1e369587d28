"""One run of an entry.

``sample`` draws, ``timing`` times the denoising loop, ``cost`` and ``flops`` count operations and memory,
``environment`` reports versions and device, ``generate`` draws pictures for the command line.
"""
