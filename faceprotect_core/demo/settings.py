"""The demo setting, in one place: workflows/demo.json, the evaluation and the README all mean this."""

from ..method.protect import Settings

# Dodging with the demo model: enough to be past the threshold on other photos, and no more change than that.
DEMO = Settings(
    depth=3, pairing="exact", iterations=24, lr=0.1, fidelity_weight=0.3, output="detail", keep_colours=True
)  # fmt: skip
DEMO_MARGIN = 0.2
