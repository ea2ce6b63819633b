// Package embedded runs a Temporal server and its web UI inside this process,
// on one SQLite file and 127.0.0.1. Use it where hallpass shall need nothing
// but itself: on a developer's machine, in a demonstration, in a test of the
// whole. It is a real Temporal server, the same code as a cluster's; it is
// not one that survives the loss of its machine.
//
// What it promises: everything Temporal acknowledged is on disk (WAL,
// synchronous=FULL), so the process may be killed at any moment; a file that
// another version of Temporal's schema made is refused and not touched; what
// Temporal logs goes to a file and never to the terminal.
//
// This is the only package that links the server, about 100 MB, and
// hallpass-dev is the only program that links this package.
package embedded
