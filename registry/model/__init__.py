"""What the mesh knows, as typed values: the resources, how they are read, judged and written. Pure."""
