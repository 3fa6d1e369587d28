"""Node pack of ComfyUI for the nodes in the Python package `foreseer`."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension; without the package, a message that says what to run."""
    try:
        from foreseer.hosts.comfyui.profile_nodes import register_folder
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "foreseer":
            raise
        import sys

        raise ModuleNotFoundError(
            f"The Python package foreseer is missing. Run: {sys.executable} -m pip install foreseer", name="foreseer"
        ) from error
    register_folder()
    from foreseer.hosts.comfyui.nodes import ForeseerExtension

    return ForeseerExtension()
