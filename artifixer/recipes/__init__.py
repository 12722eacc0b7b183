"""Named settings of the verbs."""


def recipe_name(choice: str, device: str) -> str:
    """The recipe that ``--recipe`` selects: ``auto`` is ``paper`` on a GPU and ``tiny`` on a
    CPU.
    """
    if choice != "auto":
        return choice
    return "paper" if device.startswith("cuda") else "tiny"
