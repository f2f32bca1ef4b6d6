"""Data sets as other tools lay them out: class directories, webdataset tars, `datasets`."""
