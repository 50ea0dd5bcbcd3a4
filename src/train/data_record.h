/* What a model must remember of the data it was trained on, as JSON in its checkpoint. */
#ifndef EBB_TRAIN_DATA_RECORD_H
#define EBB_TRAIN_DATA_RECORD_H

#include <ebb/shard.h>

/* free() it; NULL when out of memory. */
char *ebb_data_record_write(const ebb_dataset_info_t *info);

typedef struct ebb_data_record ebb_data_record_t;
ebb_status_t ebb_data_record_read(const char *json, ebb_data_record_t **record_p);
void ebb_data_record_free(ebb_data_record_t *record);
/* Borrowed; rows, class_rows and bytes are those of the training data. */
const ebb_dataset_info_t *ebb_data_record_info(const ebb_data_record_t *record);

#endif
