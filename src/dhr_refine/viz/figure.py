"""The figure class of :mod:`dhr_refine.viz`, apart so that importing that does not import matplotlib."""

from __future__ import annotations

import base64
import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that notebooks and Sphinx-Gallery show although pyplot does not know it."""

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi="figure")
        picture = base64.b64encode(buffer.getvalue()).decode()
        style = f"width: 100%; max-width: {round(self.get_figwidth() * self.dpi)}px"
        return f'<img alt="figure" style="{style}" src="data:image/png;base64,{picture}">'
