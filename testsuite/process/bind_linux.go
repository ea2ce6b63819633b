package process

import (
	"os/exec"
	"syscall"
)

// bind lets the kernel end a program when the test binary ends, however that
// does: a test that times out runs no clean-up. SIGQUIT, because PostgreSQL
// ends its children on it; it ends other programs all the same.
func bind(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
}
