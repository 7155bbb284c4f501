"""More rows than fit in memory, more work than fits in one process: streams, folders of results, clusters.

`CounterfactualExplainer.explain_iter` streams results, `CounterfactualExplainer.explain_to` writes them to a folder that can
be resumed, and `load_results` reads such a folder. Dask collections go through `CounterfactualExplainer.transform`.
"""

from cfexplain.scale.blocks import is_dask
from cfexplain.scale.dask import transform_dask
from cfexplain.scale.mixin import ScaleMixin
from cfexplain.scale.store import CounterfactualStore, load_results

__all__ = ["CounterfactualStore", "ScaleMixin", "is_dask", "load_results", "transform_dask"]
