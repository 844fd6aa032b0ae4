"""The studio: a page in the browser, served from this machine to this machine, for those who do not live in a shell.

``headsculpt studio`` shows the runs of a folder, sculpts and edits by sentences, turns heads and lets them make faces.
"""
