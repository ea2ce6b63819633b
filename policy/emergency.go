package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hallpass/access"
)

// Bounds on break-glass.
const (
	DefaultEmergencyReason = 20                  // characters of the reason, where a rule doesn't say
	MaxReviewTime          = 30 * 24 * time.Hour // that reviewers have
)

// Emergency is what a rule asks of who breaks the glass.
type Emergency struct {
	Tell   []string      // groups that are told
	Review access.Set    // who has to sign it off
	Within time.Duration // that they have
	Reason int           // characters that the reason has to have
}

// emergency reads what a rule asks of who breaks the glass.
func (r *reader) emergency(v node) *Emergency {
	e := &Emergency{Reason: DefaultEmergencyReason}
	r.object(v, "emergency", fields{
		"tell": func(v node) { e.Tell = r.names(v, "tell") },
		"review": func(v node) {
			r.object(v, "review", fields{
				"from":   func(v node) { e.Review.Groups = r.names(v, "from") },
				"count":  func(v node) { e.Review.Count = r.count(v, "count", MaxCount) },
				"within": func(v node) { e.Within = r.duration(v, "within", time.Second, MaxReviewTime) },
			}, "from", "count", "within")
		},
		"reason": func(v node) { e.Reason = r.count(v, "reason", access.MaxReason) },
	}, "tell", "review")
	return e
}

// breaks adds a rule to what there is to an emergency, and says what it lacks,
// or "". A rule without approvals has nothing to be broken.
func (r *rule) breaks(in *Input, out *access.Ruling) string {
	e := r.Emergency
	switch {
	case e == nil && len(r.Approvals) > 0:
		return "break-glass is not allowed"
	case e == nil:
		return ""
	}
	if out.Emergency == nil {
		out.Emergency = &access.Emergency{}
	}
	out.Emergency.Tell = sorted(slices.Concat(out.Emergency.Tell, e.Tell))
	set := access.Set{Count: e.Review.Count, Groups: slices.Clone(e.Review.Groups)}
	out.Emergency.Review = append(out.Emergency.Review, access.Need{Rule: r.Name, Sets: []access.Set{set}})
	out.Emergency.Within = least(out.Emergency.Within, access.InSeconds(e.Within))
	out.Revokers = append(out.Revokers, e.Review.Groups...) // who has to look at it may end it
	if n := utf8.RuneCountInString(strings.Join(strings.Fields(in.Request.Reason), " ")); n < e.Reason {
		return fmt.Sprintf("break-glass takes a reason of at least %d characters, and this has %d", e.Reason, n)
	}
	return ""
}
