/*
 * fault.h - named crash points, empty in a release.
 *
 * FAULT("capture.before-journal") kills the process with SIGKILL when the environment says
 * TWINSPOOL_FAULT=capture.before-journal or ...:3 for the third time it is reached;
 * name~MS waits there instead, every time, so that a race has room. Compiled in only with `make FAULTS=1`.
 */
#ifndef META_BASE_FAULT_H
#define META_BASE_FAULT_H

#ifdef TWINSPOOL_FAULTS
void fault_point(const char *name);
#define FAULT(name) fault_point(name)
#else
#define FAULT(name) ((void)0)
#endif

#endif
