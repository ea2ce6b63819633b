// Package testsuite holds what is tested from outside: hallpass as people
// meet it, end to end, and the shape of the code as a whole. Nothing imports
// it; tests of other packages may use what is in the folders below: sshdtest,
// postgrestest, vaulttest and s3test run real servers, histories has recorded
// workflows. The folders vault and s3 are modules of their own, the servers that
// vaulttest and s3test run.
//
// The scripts in testdata/scripts are the end-to-end tests. They run
// bin/hallpass itself, with a Temporal server of its own for each script, and
// log in to real sshds with the real ssh:
//
//	make e2e             all of them
//	make e2e E2E=kill    those with kill in their name
//
// What commands scripts have beside those of testscript is said in
// scripts_test.go.
package testsuite
