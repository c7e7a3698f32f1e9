"""The demo setting, in one place: workflows/demo.json, the evaluation and the README all mean this."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DemoSettings:
    """Dodging with the demo model: enough to be past the threshold on other photos, and no more change than that."""

    depth: int = 3
    pairing: str = "exact"
    null_text_iterations: int = 20
    null_text_lr: float = 0.1
    margin: float = 0.3
    optimizer: dict = field(
        default_factory=lambda: dict(
            iterations=40, lr=0.02, objective_weight=0.003, fidelity_weight=1.0, output="detail"
        )
    )


DEMO = DemoSettings()
