"""Find the activations of a network, and describe it as text, for model.txt."""

from torch import nn

from training.optimization import decayed_parameters


def activation_sites(model: nn.Module, activation_type: type[nn.Module]) -> dict[str, nn.Module]:
    """Return a network's modules of that class by path, in the order of its parts."""
    return {path: site for path, site in model.named_modules() if type(site) is activation_type}


def activation_paths(model: nn.Module, activation_type: type[nn.Module]) -> list[str]:
    """Return the paths of a network's activations, each once.

    Several sites share a path where one module's forward called several activations.
    """
    if report := getattr(model, "replacement", None):
        return list(dict.fromkeys(site.path for site in report.replaced))
    return list(activation_sites(model, activation_type))


def describe_model(
    model: nn.Module, activation_type: type[nn.Module], decay: str = "weights"
) -> str:
    """Return parameter counts, every activation site by path, and the architecture.

    A third-party network's text also says what its activations were, which of them were left and
    why, and which weights, judged by their dimensions, get no weight decay.
    """
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    sites: list[tuple[str, object]] = [*activation_sites(model, activation_type).items()]
    further = []
    if report := getattr(model, "replacement", None):
        sites = [(site.path, site.now) for site in report.replaced]
        further = [str(report), "", _undecayed(model, decay), ""]
    lines = [f"Parameters: {total:,} ({trainable:,} trainable)"]
    if flops := getattr(model, "forward_flops", None):
        sample = getattr(model, "sample", "image")
        lines += [f"Operations: {flops:,} FLOP per {sample} forward (2 for a multiply and add)"]
    lines += [""]
    lines += [f"Activation sites: {len(sites)}", *(f"  {path}: {site}" for path, site in sites)]
    return "\n".join([*lines, "", *further, str(model), ""])


def _undecayed(model: nn.Module, decay: str) -> str:
    decayed = decayed_parameters(model, decay)
    others = [n for n, p in model.named_parameters() if p.dim() > 1 and n not in decayed]
    return f"Without weight decay, beside biases and norms: {', '.join(others) or 'none'}"
