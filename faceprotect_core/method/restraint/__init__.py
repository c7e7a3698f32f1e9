"""What keeps the change small: fidelity, insisting only where it is needed, the least change that suffices."""
