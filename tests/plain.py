"""A second, independent route to every meta-gradient: one task at a time, plain torch, nothing of metakit.

Networks are written out as functions of a dictionary of weights, batch norm by its formula.
"""

import torch
import torch.nn.functional as F


def mlp(weights, x):
    """The network of `metakit.models.MLP`, from the same names: linear1, linear2, ..., head."""
    layers = sorted(name[:-7] for name in weights if name.startswith("linear") and name.endswith(".weight"))
    for layer in layers:
        x = torch.relu(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return x @ weights["head.weight"].T + weights["head.bias"]


def block(weights, name, x, statistics_rows=None):
    """Convolution, batch norm, ReLU, pooling, in the order of the papers."""
    x = F.conv2d(x, weights[f"{name}.conv.weight"], padding=1)
    seen = x if statistics_rows is None else x[:statistics_rows]
    mean = seen.mean((0, 2, 3), keepdim=True)
    variance = ((seen - mean) ** 2).mean((0, 2, 3), keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-5)
    x = x * weights[f"{name}.norm.weight"][:, None, None] + weights[f"{name}.norm.bias"][:, None, None]
    return F.max_pool2d(torch.relu(x), 2)


def features(weights, x, statistics_rows=None):
    """The embedding of `metakit.models.ConvNet`."""
    blocks = sorted({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    for i in blocks:
        x = block(weights, f"blocks.{i}", x, statistics_rows)
    return x.flatten(1)


def convnet(weights, x, statistics_rows=None):
    return features(weights, x, statistics_rows) @ weights["head.weight"].T + weights["head.bias"]


def group_norm(weights, name, x, groups=8):
    grouped = x.unflatten(1, (groups, -1))
    mean = grouped.mean((2, 3, 4), keepdim=True)
    variance = ((grouped - mean) ** 2).mean((2, 3, 4), keepdim=True)
    x = ((grouped - mean) / torch.sqrt(variance + 1e-5)).flatten(1, 2)
    return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def resnet(weights, x):
    """The network of `metakit.models.ResNet`: a stem of stride 2, then stages that pool, residual blocks between."""
    stages = sorted({int(name.split(".")[1]) for name in weights if name.startswith("stages.")})
    for i in stages:
        name = f"stages.{i}"
        if f"{name}.conv.weight" in weights:
            stem = {"padding": 2, "stride": 2} if i == 0 else {"padding": 1}
            x = F.conv2d(x, weights[f"{name}.conv.weight"], **stem)
            x = torch.relu(group_norm(weights, f"{name}.norm", x if i == 0 else F.max_pool2d(x, 2)))
            continue
        y = F.conv2d(x, weights[f"{name}.conv1.weight"], padding=1)
        y = torch.relu(group_norm(weights, f"{name}.norm1", y))
        y = F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1)
        x = torch.relu(x + group_norm(weights, f"{name}.norm2", y))
    return x.flatten(1) @ weights["head.weight"].T + weights["head.bias"]


def loss_of(outputs, targets):
    if targets.is_floating_point():
        return ((outputs - targets) ** 2).mean()
    return -torch.log_softmax(outputs, -1)[torch.arange(len(targets)), targets].mean()


def adapted(network, weights, x, y, *, steps, rates, names=None, second=True):
    """Weights of one task after gradient descent; `rates` is a number or one tensor a name."""
    names = list(weights) if names is None else names
    weights = dict(weights)
    for _ in range(steps):
        loss = loss_of(network(weights, x), y)
        grads = torch.autograd.grad(loss, [weights[n] for n in names], create_graph=second, retain_graph=True)
        for name, grad in zip(names, grads, strict=True):
            rate = rates[name] if isinstance(rates, dict) else rates
            weights[name] = weights[name] - rate * grad
    return weights


def maml_losses(network, weights, batch, *, steps, rates, names=None, second=True):
    """Query loss of each task after adaptation, `[T]`."""
    losses = []
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        after = adapted(network, weights, sx, sy, steps=steps, rates=rates, names=names, second=second)
        losses.append(loss_of(network(after, qx), qy))
    return torch.stack(losses)


def protonet_losses(embed, weights, batch):
    losses = []
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        support, query = embed(weights, sx), embed(weights, qx)
        prototypes = torch.stack([support[sy == n].mean(0) for n in range(int(sy.max()) + 1)])
        scores = torch.stack([-((q - prototypes) ** 2).sum(1) for q in query])
        losses.append(loss_of(scores, qy))
    return torch.stack(losses)
