"""The browser viewer: rendering of splats, live repair by the video model, camera paths."""
