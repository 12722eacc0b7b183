"""Look around in a scene with a browser, and repair what is seen while it is seen."""
