//go:build !linux || !amd64

package chaos

import (
	"errors"
	"time"
)

// CanMoveClocks says whether MoveClock can work here.
const CanMoveClocks = false

// MoveClock moves what a running process takes for the time of the day: on
// Linux and amd64.
func MoveClock(int, time.Duration) error {
	return errors.New("a process's clock can be moved on linux/amd64 only")
}
