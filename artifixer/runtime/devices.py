"""Which device the work runs on."""

from artifixer.runtime.errors import InputError


def resolve_device(name: str) -> str:
    """``auto`` -> ``cuda`` when a GPU can be used, else ``cpu``; other names are checked. Raises ``InputError`` for unusable ones."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InputError(f"--device {name}: this machine offers no such GPU (torch {torch.__version__} sees {torch.cuda.device_count()})")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    return str(device)
