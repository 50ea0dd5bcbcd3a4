/* libebb is the whole of the stages; this file only gives the shared library a source of its own. */
#include <ebb/base.h>
