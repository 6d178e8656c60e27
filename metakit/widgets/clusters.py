"""The cluster explorer: drawings sorted without their names, by pixels, by principal directions, or by a network."""

from __future__ import annotations

import ipywidgets as ipw
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.models import ConvNet
from metakit.tasks import LabelledData, kmeans
from metakit.widgets.explorer import LATE, LINE, STYLE, VIEWED, Explorer

FEATURES = ("pixels", "blurred pixels", "principal directions", "a random network")
_SHOWN, _MEMBERS = 8, 10


def features(x: Tensor, by: str, *, seed: int = 0) -> Tensor:
    """Rows of numbers for pictures, made without labels.

    Arguments:
        x: pictures ``[n, C, H, W]``, ink 1.
        by: ``"pixels"``; ``"blurred pixels"``, means of 3 by 3 of them; ``"principal directions"``, the 32 along which
            the pictures differ most; ``"a random network"``, the features of three blocks that were never trained.
        seed: of the random network, and of the search for principal directions.

    Raises:
        ValueError: if ``by`` is none of these.

    Example:
        >>> features(torch.rand(40, 1, 16, 16), "principal directions").shape
        torch.Size([40, 32])
    """
    if by not in FEATURES:
        raise ValueError(f"by must be one of {', '.join(FEATURES)}, got {by!r}. Choose one of these.")
    if by == "pixels":
        return x.flatten(1)
    if by == "blurred pixels":
        return F.avg_pool2d(x, 3, stride=2, padding=1).flatten(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if by == "a random network":
            return ConvNet(channels=x.shape[1], size=x.shape[-1], width=32, blocks=3).to(x.device)(x)
        flat = x.flatten(1) - x.flatten(1).mean(0)
        return flat @ torch.pca_lowrank(flat, q=32, center=False)[2]


def sorted_drawings(
    data: LabelledData, *, by: str = "blurred pixels", clusters: int = 150, seed: int = 0
) -> records.Clusters:
    """Sort the drawings of some data into clusters, and compare with their true classes.

    The classes are looked at only afterwards, for ``purity``.

    Arguments:
        data: the drawings, rows ``[C, H, W]``.
        by: what is compared; see ``features``.
        clusters: number of clusters.
        seed: of the features and of k-means.

    Raises:
        ValueError: if ``by`` is unknown, or there are more clusters than drawings.

    Example:
        >>> import metakit as mk
        >>> record = sorted_drawings(mk.tasks.Glyphs(2, 5, 8, 16), clusters=10)
        >>> record.pictures.shape, int(record.sizes.sum())
        (torch.Size([8, 10, 16, 16]), 80)

    Source: clusters as classes, Hsu, Levine and Finn 2019.
    """
    x = data.rows.cpu() / 255
    labels = kmeans(features(x, by, seed=seed), clusters, seed=seed)
    true = torch.arange(len(data)).repeat_interleave(data.counts.cpu())
    table = torch.zeros(clusters, len(data)).index_put_((labels, true), torch.tensor(1.0), accumulate=True)
    sizes = labels.bincount(minlength=clusters)
    # Those of middling size: the largest ones hold what looks like nothing else.
    shown = sizes.argsort(descending=True, stable=True)[clusters // 4 :][:_SHOWN]
    pictures = torch.zeros(len(shown), _MEMBERS, *x.shape[-2:])
    classes = torch.full((len(shown), _MEMBERS), -1)
    for row, cluster in enumerate(shown):
        members = (labels == cluster).nonzero()[:_MEMBERS, 0]
        pictures[row, : len(members)], classes[row, : len(members)] = x[members, 0], true[members]
    return records.Clusters(pictures, classes, sizes, float(table.amax(1).sum() / len(x)), by)


class ClusterExplorer:
    """Choose what is compared and how many clusters there are; see what lands together.

    After each change ``.record`` is the ``records.Clusters`` shown, and ``.error`` the exception if there was one.
    Controls by name: clusters, by, seed.

    Arguments:
        data: the drawings; at least 300 of them.

    Example:
        >>> import metakit as mk
        >>> explorer = ClusterExplorer(mk.tasks.Glyphs(3, 10, 10, 16))
        >>> explorer.controls["clusters"].value = 60
        >>> len(explorer.record.sizes), explorer.error
        (60, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, data: LabelledData) -> None:
        self.data = data
        most = min(300, len(data.rows))
        controls = {
            "clusters": ipw.IntSlider(description="Clusters", min=20, max=most, step=10, value=most // 2, **LATE),
            "by": ipw.Dropdown(description="Compared by", options=FEATURES, value=FEATURES[1], **LINE),
            "seed": ipw.BoundedIntText(description="Seed", min=0, max=999, value=0, style=STYLE),
        }
        told = "An explorer with a slider for the number of clusters and a list of features"
        self._view = Explorer(controls, self.compute, self.draw, instead=told)
        self._view.refresh()

    def compute(self, *, clusters: int, by: str, seed: int) -> records.Clusters:
        """The record for one setting of the controls; see ``sorted_drawings``."""
        return sorted_drawings(self.data, clusters=clusters, by=by, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: records.Clusters) -> None:
        """Eight of the clusters on a whole figure."""
        fig.set(figwidth=6.4, figheight=5.0, dpi=100, facecolor="white")
        ax = fig.subplots()
        fig.subplots_adjust(left=0.12, right=0.99, top=0.93, bottom=0.02)
        ax.spines[:].set_visible(False)
        plots.draw_clusters(ax, record)
