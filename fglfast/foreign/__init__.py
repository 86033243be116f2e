"""What strangers wrote, read within bounds: files, JSON, tars, folders, networks. Knows no format of ours."""
