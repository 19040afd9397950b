"""Scenes, cameras and the Gaussian model."""

from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.scene.points import PointCloud
from gns.scene.scene import Scene
from gns.scene.view import View

__all__ = ["Camera", "Gaussians", "PointCloud", "Scene", "View"]
