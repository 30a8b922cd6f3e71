"""`sailloft view`: one application in the browser, on this machine alone; each kind of output has a page module."""
