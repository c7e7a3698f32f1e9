"""Save Protected Image: IMAGE -> files without workflow, prompt or EXIF (core: photos/file.py)."""

from pathlib import Path

import torch
from comfy_api.latest import io
from einops import rearrange

from ..faceprotect_core.checks import ProtectionError
from ..faceprotect_core.photos.file import PhotoFile
from ..faceprotect_core.photos.read import read_photo
from ..faceprotect_core.photos.write import write_photo
from . import host
from .sockets import CATEGORY
from .upstream import require_protected

WHERE = "Save Protected Image"
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class SaveProtectedImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectSaveImage",
            display_name=WHERE,
            category=CATEGORY,
            description="Saves images without the workflow, prompt and other metadata, which ComfyUI's own Save "
            "Image writes into the file.",
            search_aliases=["faceprotect", "save image", "save without metadata", "export", "privacy"],
            inputs=[
                io.Image.Input("images", tooltip="The images to save."),
                io.String.Input(
                    "filename_prefix",
                    default="FaceProtect",
                    tooltip="Name in ComfyUI's output folder; may have a subfolder, as in holiday/FaceProtect. A "
                    "number is added, and no file is overwritten.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(SUFFIXES),
                    default="png",
                    tooltip="png keeps every pixel. jpeg and webp are smaller and change pixels a little, which can "
                    "weaken the protection.",
                ),
                io.Int.Input(
                    "quality",
                    default=95,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip="Of jpeg and webp; webp keeps every pixel at 100. Lower is smaller and protects less.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="What the files hold, read back: for Verify Protection, which then asks about the files.",
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, filename_prefix, format, quality) -> io.NodeOutput:
        require_protected(cls.hidden, "images", WHERE)
        seen = host.to_core_image(images, WHERE).cpu()
        paths = []
        for number, (image, source) in enumerate(zip(seen, images, strict=True)):
            photo = PhotoFile(image)
            if source.shape[-1] == 4:
                colours = rearrange(source, "h w c -> c h w").cpu().float()
                photo = PhotoFile.of(colours[:3], colours[3:])
            try:
                paths.append(_save(photo, number, filename_prefix, SUFFIXES[format], quality))
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is no name of a file"
                raise ProtectionError(
                    f"{WHERE}: nothing can be saved under {filename_prefix[:80]!r} ({reason})",
                    "use a short and plain name; look at the rights and the space of ComfyUI's output folder",
                ) from error
        shown = [{"filename": path.name, "subfolder": subfolder, "type": "output"} for path, subfolder in paths]
        written = torch.stack([read_photo(path).image for path, _ in paths])
        return io.NodeOutput(host.to_comfy_image(written), ui={"images": shown})


def _save(photo: PhotoFile, number: int, prefix: str, suffix: str, quality: int) -> tuple[Path, str]:
    """Writes one image under the next free number; returns its file, and its folder below the output folder."""
    height, width = photo.image.shape[-2:]
    folder, name, counter, subfolder = host.save_path(prefix, width, height)
    stem = name.replace("%batch_num%", str(number))
    while any((folder / f"{stem}_{counter:05}{other}").exists() for other in SUFFIXES.values()):
        counter += 1
    path = folder / f"{stem}_{counter:05}{suffix}"
    write_photo(path, photo.image, photo, quality=quality)
    return path, subfolder
