package worker

import (
	"strings"
	"testing"
)

// How a host is set up is said in one place, by hallpass ca show: a second one
// would come to name other files.
func TestExamplesLeaveHostsToCAShow(t *testing.T) {
	if !strings.Contains(catalogExample, "hallpass ca show --host") {
		t.Error("the example catalog doesn't say how to set a host up")
	}
	for name, text := range map[string]string{"catalog": catalogExample, "policy": policyExample, "directory": directoryExample, "configuration": configExample} {
		if strings.Contains(text, "/etc/ssh") {
			t.Errorf("the example %s names files of the host", name)
		}
	}
}
