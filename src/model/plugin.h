/* Models from shared objects. Internal to model/. */
#ifndef EBB_MODEL_PLUGIN_H
#define EBB_MODEL_PLUGIN_H

#include <ebb/model.h>

/* Load path and check what it exports; *handle_p for ebb_plugin_close. */
ebb_status_t ebb_plugin_open(const char *path, void **handle_p, const ebb_model_ops_t **ops_p);
void ebb_plugin_close(void *handle);

#endif
