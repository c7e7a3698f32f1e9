"""FR Surrogate Loss: surrogates, photo, target -> FACEPROTECT_OBJECTIVE (core: method/objectives.py)."""

from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..faceprotect_core import AlignmentJitter, IdentityObjective, ProtectionError
from ..faceprotect_core.checks import require
from ..faceprotect_core.method.restraint.least_change import least_change
from . import host
from .faces import find_faces
from .sockets import CATEGORY, FacesSocket, ObjectiveData, ObjectiveSocket
from .surrogates import connected, growing_input
from .upstream import require_untouched

WHERE = "FR Surrogate Loss"


class FRSurrogateLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectFRSurrogateLoss",
            display_name="FR Surrogate Loss",
            category=CATEGORY,
            description="What the protected photo should look like to face recognition: no longer the same person "
            "(dodge), somebody else (impersonate), or both.",
            search_aliases=["faceprotect", "face recognition", "identity loss", "dodge", "impersonate", "privacy"],
            inputs=[
                growing_input(
                    "surrogate",
                    tooltip="From Load FR Surrogate. The photo is protected against these; whether that carries over "
                    "to other recognisers, only a check against others can tell.",
                    least=1,
                ),
                io.Image.Input("photo", tooltip="The photo that is protected, the very one that was VAE-encoded."),
                io.Combo.Input(
                    "mode",
                    options=["dodge", "impersonate", "both"],
                    default="dodge",
                    tooltip="dodge: no longer match the photo. impersonate: match the target (this alone does not "
                    "promise that the person is no longer recognised). both: the paper's obfuscation loss.",
                ),
                io.Combo.Input(
                    "framing",
                    options=["aligned", "box", "whole image"],
                    default="aligned",
                    tooltip="What a surrogate sees. aligned: the face, aligned as that network wants it. box: the face "
                    "box of the changed image, resized, target and photo whole, as in the paper. whole image: all of "
                    "it, resized.",
                ),
                io.Image.Input(
                    "target",
                    optional=True,
                    tooltip="Whom to look like, for impersonate and both. One image, one per photo, or several of one "
                    "person with average_targets.",
                ),
                FacesSocket.Input(
                    "faces",
                    optional=True,
                    tooltip="From Detect Faces on the photo; the best face of each image is protected. Without it the "
                    "face is detected here.",
                ),
                io.Combo.Input(
                    "reduction",
                    options=["sum", "mean"],
                    default="sum",
                    advanced=True,
                    tooltip="How several surrogates add up. The paper's weight 0.003 goes with sum.",
                ),
                io.Boolean.Input(
                    "stop_at_margin",
                    default=False,
                    advanced=True,
                    tooltip="Off: push to the last iteration, as the paper does. On: stop pushing at a surrogate once "
                    "it is past its threshold by margin, which leaves the photo closer to the original.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.1,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    advanced=True,
                    tooltip="With stop_at_margin: how far past the threshold, in the metric of each surrogate. More "
                    "holds better on other photos of the person and changes the photo more.",
                ),
                io.Int.Input(
                    "jitter",
                    optional=True,
                    default=0,
                    min=0,
                    max=4,
                    advanced=True,
                    tooltip="Above 0 each surrogate sees the face through so many slightly wrong alignments, other "
                    "ones in each iteration: what helps most against recognisers that were not connected. 1 takes no "
                    "longer than 0. Framing aligned only. 0: the right alignment, as in the paper.",
                ),
                seed_input("jitter_seed", of="the wrong alignments", optional=True, advanced=True),
                io.Float.Input(
                    "steepness",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    advanced=True,
                    tooltip="With stop_at_margin. Above 0 (about 6) the surrogates that are furthest behind count "
                    "more, and pushing eases off beyond the margin. 0: each is pushed alike, and not at all once it "
                    "is past the margin.",
                ),
                io.String.Input(
                    "weights",
                    optional=True,
                    default="",
                    advanced=True,
                    tooltip="One number per surrogate in the order of the sockets, as in 1, 1, 0.5. Empty: 1 each, as "
                    "in the paper.",
                ),
                io.Boolean.Input(
                    "average_targets",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip="On: the target images all show one person, and the mean of their embeddings is the "
                    "target. Off: one target for all photos, or one for each photo.",
                ),
            ],
            outputs=[ObjectiveSocket.Output(display_name="objective", tooltip="The identity loss, for the optimizer.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls,
        surrogates: io.Autogrow.Type,
        photo,
        mode,
        framing,
        reduction,
        stop_at_margin,
        margin,
        target=None,
        faces=None,
        jitter=0,
        jitter_seed=0,
        steepness=0.0,
        weights="",
        average_targets=False,
    ) -> io.NodeOutput:
        require_untouched(cls.hidden, "photo", WHERE)
        require(
            mode == "dodge" or target is not None,
            f"{WHERE}: mode {mode!r} needs somebody to look like, and no target is connected",
            "connect an image to target, or choose dodge",
        )
        _require_that_it_fits(framing, jitter, steepness, stop_at_margin)
        loaded = connected(surrogates)
        patchers = tuple(surrogate.patcher for surrogate in loaded)
        with host.no_gradients(*patchers):
            image = host.to_core_image(photo, WHERE)
            target = None if mode == "dodge" else host.to_core_image(target, WHERE)
            objective = IdentityObjective(
                [surrogate.surrogate for surrogate in loaded],
                target=target,
                source=None if mode == "impersonate" else image,
                reduction=reduction,
                margin=margin if stop_at_margin else None,
                jitter=AlignmentJitter(jitter, seed=jitter_seed),
                steepness=steepness,
                weights=_weights(weights),
                average_targets=average_targets,
                **_framing(framing, image, target, faces),
            )
        return io.NodeOutput(ObjectiveData(objective, patchers, tuple(image.shape[2:])))


def seed_input(name: str, of: str, default: int = 0, **more) -> io.Int.Input:
    """A widget of what draws at random."""
    tooltip = f"Of {of}; the same number gives the same result."
    return io.Int.Input(name, default=default, min=0, max=2**31 - 1, tooltip=tooltip, **more)


def early_stop_input(off: str, **more) -> io.Boolean.Input:
    """A widget of what has iterations. off: what is done then."""
    return io.Boolean.Input(
        "early_stop",
        default=False,
        tooltip="On: stop once every surrogate is past its threshold by the margin of FR Surrogate Loss, which must "
        f"have stop_at_margin on. Off: {off}.",
        **more,
    )


def history_output(loss: str) -> io.String.Output:
    """What was measured while the change was made, and at its end. loss: that beside the identity's."""
    return io.String.Output(
        display_name="history",
        tooltip=f"JSON: per iteration and image the identity and the {loss} loss, and the surrogates' similarity at "
        "the end, with the threshold and the verdict.",
    )


def least_change_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "least_change",
        optional=True,
        default=False,
        advanced=True,
        tooltip="On: what went further than it had to is taken back at the end, so that the surrogate that is fooled "
        "least is just past its threshold by the margin of FR Surrogate Loss, which must have stop_at_margin on. Off: "
        "the whole change, as in the paper.",
    )


def as_little_as_suffices(photo: Tensor | None, changed: Tensor, objective: IdentityObjective, where: str) -> Tensor:
    """[B, 3, H, W] in [0, 1]: see `least_change`."""
    require(
        photo is not None and objective.margin is not None,
        f"{where}: least_change takes back what goes further past the thresholds than margin says, and there is no "
        f"{'photo' if photo is None else 'margin'}",
        "choose output detail and connect the photo, and switch stop_at_margin on in FR Surrogate Loss; or switch "
        "least_change off",
    )
    image, _ = least_change(photo, changed, objective)
    return image


def photo_and_mask(objective: ObjectiveData, image, mask, where: str) -> tuple[Tensor, Tensor | None]:
    """What a node changes that works on the pixels of the objective's photo, and where it may: [B, 3, H, W] and
    [1 or B, 1, H, W] in [0, 1] on the compute device."""
    photo, (height, width) = host.to_core_image(image, where).clamp(0.0, 1.0), objective.image_size
    require(
        (height, width) == tuple(photo.shape[2:]),
        f"{where}: the photo of FR Surrogate Loss is {height} x {width} pixels, the image {photo.shape[2]} x "
        f"{photo.shape[3]}",
        "connect the very same photo to both",
    )
    require_as_many(objective, len(photo), where)
    if mask is None:
        return photo, None
    mask = host.to_device(rearrange(mask, "... h w -> (...) 1 h w")).clamp(0.0, 1.0)
    return photo, host.require_room(mask, where)


def require_as_many(objective: ObjectiveData, count: int, where: str) -> None:
    """One photo in the loss would do for many images, each of which would flee from the person on it."""
    source = objective.objective.source
    require(
        source is None or len(source[0]) == count,
        f"{where}: FR Surrogate Loss has {len(source[0]) if source else 0} photos, and there are {count} images",
        "connect the very same photos to both",
    )


def _require_that_it_fits(framing: str, jitter: int, steepness: float, stop_at_margin: bool) -> None:
    require(
        jitter == 0 or framing == "aligned",
        f"{WHERE}: jitter moves the alignment, and with framing {framing!r} nothing is aligned",
        "choose framing aligned, or set jitter to 0",
    )
    require(
        steepness == 0 or stop_at_margin,
        f"{WHERE}: steepness is {steepness:g}, and without stop_at_margin pushing has nowhere to ease off",
        "switch stop_at_margin on, or set steepness to 0",
    )


def _weights(text: str) -> list[float] | None:
    """The numbers of a text such as "1, 1, 0.5"; None for an empty one."""
    parts = text.replace(",", " ").split()
    try:
        return [float(part) for part in parts] or None
    except ValueError:
        raise ProtectionError(
            f"{WHERE}: the weights {text!r} are not all numbers",
            "write one number per surrogate, as in 1, 1, 0.5, or leave the field empty",
        ) from None


def _framing(framing: str, image, target, faces) -> dict:
    """The arguments of IdentityObjective that say where the face is."""
    if framing == "whole image":
        return {}
    best = [found[0] for found in faces or find_faces(image, WHERE)]
    require(
        len(best) == image.shape[0],
        f"{WHERE}: faces of {len(best)} images are connected, the photo has {image.shape[0]}",
        "connect Detect Faces to the same photo",
    )
    if framing == "box":
        require(
            len(best) == 1,
            f"{WHERE}: framing 'box' takes one photo at a time, got {len(best)}",
            "use framing 'aligned' for a batch",
        )
        return {"crop_box": tuple(best[0].box_xyxy)}
    target_faces = None if target is None else [found[0] for found in find_faces(target, f"{WHERE} (target)")]
    return {"face": best, "source_face": best, "target_face": target_faces}
