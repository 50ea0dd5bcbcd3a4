#ifndef EBB_BASE_STATUS_H
#define EBB_BASE_STATUS_H

/* Rank noted in errors from now on; set by the transport through ebb_log_set_rank. */
void ebb_error_set_rank(int rank);
int ebb_process_rank(void); /* -1 before there were ranks */

#endif
