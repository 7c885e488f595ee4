"""Scripts: how one request becomes several plain ones, and what is made of their pictures. One file each; no torch."""
