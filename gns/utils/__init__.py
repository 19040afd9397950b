"""Pure functions, one subject a module; nothing here imports from gns except its errors."""
