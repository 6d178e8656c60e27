"""Base learners and embeddings: ordinary modules whose weights can be stacked over tasks."""

from metakit.models.convnet import ConvNet
from metakit.models.embeddings import Gains, Standardised, Views, Whitened
from metakit.models.mlp import MLP
from metakit.models.resnet import Residual, ResNet, Widen
from metakit.models.transformer import SetTransformer

__all__ = [
    "MLP",
    "ConvNet",
    "Gains",
    "ResNet",
    "Residual",
    "SetTransformer",
    "Standardised",
    "Views",
    "Whitened",
    "Widen",
]
