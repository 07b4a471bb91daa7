"""How the authors of methods name the tensors of their networks: a table for each family of files.

A row says which module of theirs is which of ours. Most codes keep three whole ResNets and use a part of each; what of
them no row reaches in our network is an unused copy. Written from the model definitions of the authors' codes: none of
the published files was at hand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from bdf_jax.models.weights import TORCHVISION_RESNET

Rows = tuple[tuple[str, str], ...]
# Names of wrappers around the whole network: removed where all tensors have them.
MAX_PREFIX = 4


@dataclasses.dataclass(frozen=True)
class Layout:
    """A family of files.

    Attributes:
      methods: registry names of the methods whose networks have these tensors; the first where nobody says which.
      mark: regular expression of the beginning of names that only this family has.
      rows: (regular expression of a module's name, our path, in which \\1 is its first group). A path ends at a module
        or, where that is a bare array, at the array.
      classes: regular expression of the tensor whose first axis are the identities.
      unused: regular expression of the beginning of names that may be there for nothing.
      regdb_lacks: of names that the network for RegDB lacks; empty: it is the same.
    """

    methods: tuple[str, ...]
    mark: str
    rows: Rows
    classes: str = r"classifier\.weight"
    unused: str = ""
    regdb_lacks: str = ""

    def place(self, module: str) -> str | None:
        """Our path of a module of theirs."""
        for pattern, ours in self.rows:
            if match := re.fullmatch(pattern, module):
                return match.expand(ours)
        return None


def resnet(prefix: str, stages: str, suffix: str = "") -> Rows:
    """Rows of a ResNet in torchvision's names behind a prefix.

    Args:
      prefix: regular expression.
      stages: which of it are used: "0" the stem, "1" to "4" the layers.
      suffix: of our stages: "", "_visible" or "_infrared".
    """
    layers = f"[{stages.strip('0')}]"
    rows = []
    for theirs, ours in TORCHVISION_RESNET.rows:
        if ours.startswith("stem/"):
            rows += [(prefix + theirs, ours.replace("stem/", f"stem{suffix}/"))] if "0" in stages else []
        elif stages != "0":
            rows.append((prefix + theirs.replace("[1-4]", layers), ours.replace("\\1/", f"\\1{suffix}/")))
    return tuple(rows)


def copies(*prefixes: str) -> str:
    """Expression of a whole ResNet's names behind any of some prefixes."""
    return rf"(?:{'|'.join(prefixes)})(?:conv1|bn1|layer[1-4]|fc)\."


def numbered(theirs: str, ours: str, count: int, first: int) -> Rows:
    """Rows of parts of which each stripe has one: %d is its number, theirs from `first`, ours from 0."""
    return tuple((theirs % (s + first), ours % s) for s in range(count))


V, I, BASE = r"visible_module\.visible\.", r"thermal_module\.thermal\.", r"base_resnet\.base\."  # noqa: E741
STEMS = (*resnet(V, "0", "_visible"), *resnet(I, "0", "_infrared"))
NECK = (("bottleneck", "bnneck"), ("classifier", "classifier"))
TWO_STREAMS = (*STEMS, *resnet(BASE, "1234"), *NECK)
PARTS = (("g", r"g(?:\.0)?"), ("theta", "theta"), ("phi", "phi"), ("W", r"W\.0"), ("bn", r"W\.1"))
NON_LOCAL = tuple(
    (rf"NL_{layer}\.{i}\.{theirs}", f"layer{layer}/non_local{block}/{ours}")
    for layer, blocks in ((2, (2, 3)), (3, (3, 4, 5)))
    for i, block in enumerate(blocks)
    for ours, theirs in PARTS
)
AGGREGATION = tuple(
    (rf"MFA(\d)\.{theirs}\.{part}", rf"mfa\1/{ours}_{name}")
    for theirs, ours in (("CNL", "channel"), ("PNL", "position"))
    for name, part in PARTS
)
UNUSED = copies(V, I, BASE)

AGW = Layout(("agw", "caj"), r"NL_\d\.", (*TWO_STREAMS, *NON_LOCAL), unused=UNUSED)
MMN = Layout(
    ("mmn",),
    r"encode[12]\.|decode\.|bottleneck[1-4]\.",
    (
        *STEMS,
        *resnet(BASE, "1234"),
        *(
            (f"{theirs}{number}", f"generator_{view}/{ours}")
            for number, view in ((1, "Vm"), (2, "Im"))
            for theirs, ours in (("encode", "conv1"), ("fc", "conv2"), ("bn", "bn"))
        ),
        ("decode", "generator_middle_decoder"),
        *numbered("bottleneck%d", "bnneck%d", 4, first=1),
        *numbered("classifier%d", "classifier%d", 4, first=1),
    ),
    classes=r"classifier\d\.weight",
    unused=UNUSED,
)
DEEN = Layout(
    ("deen",),
    r"DEE\.|MFA\d\.",
    (
        *TWO_STREAMS,
        *AGGREGATION,
        (r"DEE\.FC1([1-3])", r"dee/branch0_conv\1"),
        (r"DEE\.FC2([1-3])", r"dee/branch1_conv\1"),
        (r"DEE\.FC1", "dee/branch0_W"),
        (r"DEE\.FC2", "dee/branch1_W"),
    ),
    unused=UNUSED,
    regdb_lacks=r"MFA3\.",
)
HCTRI = Layout(
    ("hctri",),
    r"local_conv_list\.|fc_list\.",
    (
        *resnet(V, "01", "_visible"),
        *resnet(I, "01", "_infrared"),
        *resnet(BASE, "234"),
        (r"local_conv_list\.(\d)\.0", r"bnneck\1_project"),
        (r"local_conv_list\.(\d)\.1", r"bnneck\1"),
        (r"fc_list\.(\d)", r"classifier\1"),
    ),
    classes=r"fc_list\.\d\.weight",
    unused=UNUSED,
)
HC = Layout(
    ("hc",),
    r"(visible|thermal)_net\.|feature\d\.feat_block\.",
    (
        *resnet(r"visible_net\.visible\.", "01234", "_visible"),
        *resnet(r"thermal_net\.thermal\.", "01234", "_infrared"),
        *numbered(r"feature%d\.feat_block\.0", "bnneck%d_project", 6, first=1),
        *numbered(r"feature%d\.feat_block\.1", "bnneck%d", 6, first=1),
        # Behind the activation, and behind dropout where there is any.
        *numbered(r"classifier%d\.classifier\.[12]", "classifier%d", 6, first=1),
    ),
    classes=r"classifier\d\.classifier\.[12]\.weight",
    unused=copies(r"visible_net\.visible\.", r"thermal_net\.thermal\."),
)
DNS = Layout(
    ("dns",),
    r"base\.(HSS\d|base)\.|CSS\.|DD\.|visible\.visible\.|thermal\.thermal\.",
    (
        *resnet(r"visible\.visible\.", "012", "_visible"),
        *resnet(r"thermal\.thermal\.", "012", "_infrared"),
        *resnet(r"base\.base\.", "34"),
        (r"base\.HSS([34])\.channel_attention\.0", r"hss\1/conv"),
        (r"base\.HSS([34])\.channel_attention\.1", r"hss\1/bn"),
        (r"base\.HSS([34])\.conv_h", r"hss\1/conv_rows"),
        (r"base\.HSS([34])\.conv_w", r"hss\1/conv_columns"),
        *NECK,
        (r"CSS\.mlp\.0", "auxiliary_css/norm"),
        (r"CSS\.mlp\.1", "auxiliary_css/wide"),
        (r"CSS\.mlp\.4", "auxiliary_css/narrow"),
        (r"DD\.(visible|infrared)_classifier", r"auxiliary_dd/kernel_\1"),
        (r"DD\.(visible|infrared)_classifier_", r"auxiliary_dd/copy_\1"),
    ),
    unused=copies(r"visible\.visible\.", r"thermal\.thermal\.", r"base\.base\."),
)
# Generators and a part of the trunk in one file, critics in others.
JSIA = Layout(("jsia",), r"mod_(invar|spec)_enc\.|cnns\.\d+\.", ())
# Eight files: two generators, four critics, encoder and embedder.
ALIGNGAN = Layout(("aligngan",), r"resnet_conv\.|classifier0\.|embedder0\.|conv_src\.|model\.0\.weight$", ())
AGW_BASE = Layout(("agw_base",), rf"{V}|{I}|{BASE}", TWO_STREAMS, unused=UNUSED)
# The first whose mark some tensor has: what several families share comes last.
LAYOUTS = (DEEN, HCTRI, HC, DNS, JSIA, ALIGNGAN, AGW, MMN, AGW_BASE)


def recognised(names: Iterable[str]) -> tuple[Layout, str] | None:
    """The family that a file is of, and the prefix before all of its names; None where it is none of them."""
    names, prefix = list(names), ""
    for _ in range(MAX_PREFIX + 1):
        for layout in LAYOUTS:
            if any(re.match(layout.mark, name) for name in names):
                return layout, prefix
        first = {name.partition(".")[0] for name in names}
        if len(first) != 1 or not all("." in name for name in names):
            return None
        component = first.pop() + "."
        prefix += component
        names = [name.removeprefix(component) for name in names]
    return None


def whole(names: Iterable[str]) -> bool:
    """Whether names are those of a whole network of a family: with its classifier."""
    names = list(names)
    found = recognised(names)
    return found is not None and any(re.fullmatch(found[0].classes, name.removeprefix(found[1])) for name in names)
