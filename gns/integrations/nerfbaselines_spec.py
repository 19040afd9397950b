"""Tells nerfbaselines of gns; its entry point `nerfbaselines.specs`, or NERFBASELINES_REGISTER, leads here."""

from nerfbaselines import register  # type: ignore[import-not-found, unused-ignore]

import gns

register(
    {
        "id": gns.__name__,
        "method_class": "gns.integrations.nerfbaselines:GnsMethod",
        "backends_order": ["python"],
        "metadata": {
            "name": gns.__name__,
            "description": "Compact 3D Gaussian Splatting: exactly as many Gaussians as asked for.",
            "licenses": [{"name": "Apache-2.0"}],
        },
        "presets": {},
        "implementation_status": {"blender": "working"},
    }
)
