//go:build !linux || !amd64

package chaos

import (
	"errors"
	"fmt"
	"time"
)

// CanMoveClocks says whether MoveClock can work here.
const CanMoveClocks = false

// MoveClock moves what a running process takes for the time of the day: on
// Linux and amd64.
func MoveClock(int, time.Duration) error {
	return fmt.Errorf("a process's clock is moved on linux/amd64 only: %w", errors.ErrUnsupported)
}
