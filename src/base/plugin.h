/* Shared objects that are loaded at run time: backends and wires. */
#ifndef EBB_BASE_PLUGIN_H
#define EBB_BASE_PLUGIN_H

#include <ebb/base.h>

/* Path of libebb_<name>.so: the first in the folders of $EBB_BACKEND_PATH (separated by colons), beside the file this
 * code is in, and in the library folder that goes with a bin folder. what: "backend", for messages. */
ebb_status_t ebb_plugin_find(const char *what, const char *name, char *path, size_t size);
/* Load it and find its entry. The object stays loaded after a failure: an error may point at strings in it. */
ebb_status_t ebb_plugin_load(const char *what, const char *path, const char *entry, void **object_p, void **symbol_p);

#endif
