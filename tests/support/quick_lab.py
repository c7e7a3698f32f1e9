"""The evaluation's laboratory with few processings, for Ray's workers too, which import it by name."""

from collections.abc import Iterable

from faceprotect_core.evaluation.protocol.trial import Lab
from faceprotect_core.verify.robustness import Processing, processings

FEW = ("none", "jpeg 50")  # of fourteen


def some_processings(*model, names: Iterable[str] = FEW, **schedule) -> dict[str, Processing]:
    found = processings(*model, **schedule)
    return {name: found[name] for name in names}


class QuickLab(Lab):
    def __init__(self, setup):
        super().__init__(setup)
        self.processings = {name: self.processings[name] for name in FEW}
