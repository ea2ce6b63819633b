package access

import (
	"fmt"
	"strings"
)

// Line says in one line what a request asks for: all that operators see of it
// in Temporal's lists. No reason and no ticket: it is never encrypted.
func (r Request) Line() string {
	return fmt.Sprintf("%s %s %s%s for %s%s", r.Signer, Wants(r.Mode), r.Resource, AsWhat(r.Login, r.Actions), r.Duration, Longer(r.Extends))
}

// Wants is the verb for what a requester does.
func Wants(mode string) string {
	if mode == ModeEmergency {
		return "takes by BREAK-GLASS"
	}
	return "wants"
}

// Longer stands behind the duration of an extension.
func Longer(extends string) string {
	if extends != "" {
		return " longer"
	}
	return ""
}

// AsWhat is what stands behind a resource's name: a login, or actions.
func AsWhat(login string, actions []string) string {
	s := ""
	if login != "" {
		s = " as " + login
	}
	if len(actions) > 0 {
		s += " (" + strings.Join(actions, ", ") + ")"
	}
	return s
}
