"""folder.py PREFIX: the folder within PREFIX that this Python searches for modules, relative to it; nothing if none is."""
import os
import site
import sys

prefix = os.path.realpath(sys.argv[1]) + os.sep
folders = [os.path.realpath(folder) for folder in site.getsitepackages() + [site.getusersitepackages()]]
inside = [folder[len(prefix):] for folder in folders if folder.startswith(prefix)]
if inside:
    print(min(inside, key=len))
