"""FaceProtect: protects a person's own photo from face recognition, as composable ComfyUI nodes."""

if __package__:  # pytest imports this file without a package
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./js"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
