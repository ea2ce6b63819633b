package policy

import (
	"slices"
	"strings"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// must is something that has to be so for a condition to hold: one of the
// terms that stand side by side under its outermost "&&", where that is
// comparison with a text. As the conjunction is false when any of its terms is
// false, whatever the others do, a rule one of whose musts isn't met doesn't
// match, and need not be evaluated to know that.
type must struct{ field, value string }

// The fields of musts. Labels are "resource.labels." and the label's name.
const (
	mustName  = "resource.name"
	mustKind  = "resource.kind"
	mustUser  = "requester.name"
	mustGroup = "requester.groups"
	mustLabel = "resource.labels."
)

// musts finds the musts of an expression. whole says that there is nothing else in
// it: then it holds if, and only if, all of them are met.
func musts(e celast.Expr) (found []must, whole bool) {
	if e.Kind() == celast.LiteralKind {
		return nil, e.AsLiteral() == types.True
	}
	if e.Kind() != celast.CallKind {
		return nil, false
	}
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd:
		whole = true
		for _, a := range args {
			more, all := musts(a)
			found, whole = append(found, more...), whole && all
		}
		return found, whole
	case operators.Equals:
		field, value := path(args[0]), args[1]
		if field == "" {
			field, value = path(args[1]), args[0]
		}
		if v, ok := literal(value); ok && v != "" {
			switch {
			case field == mustName, field == mustKind, field == mustUser, strings.HasPrefix(field, mustLabel):
				return []must{{field, v}}, true
			}
		}
	case operators.In:
		if v, ok := literal(args[0]); ok && path(args[1]) == mustGroup {
			return []must{{mustGroup, v}}, true
		}
	}
	return nil, false
}

// path writes an expression as a dotted name, if it is one. The type checker
// writes variables with dotted names as one identifier.
func path(e celast.Expr) string {
	switch e.Kind() {
	case celast.IdentKind:
		return e.AsIdent()
	case celast.SelectKind:
		sel := e.AsSelect()
		if p := path(sel.Operand()); p != "" && !sel.IsTestOnly() {
			return p + "." + sel.FieldName()
		}
	case celast.CallKind:
		call := e.AsCall()
		if call.FunctionName() == operators.Index && path(call.Args()[0])+"." == mustLabel {
			if k, ok := literal(call.Args()[1]); ok {
				return mustLabel + k
			}
		}
	}
	return ""
}

// index finds the rules that may match, without evaluating those that can't.
// Each rule is filed once: under its most telling must, or in rest.
type index struct {
	by   map[must][]int
	rest []int
}

// telling orders the fields of musts by how few requests meet one.
func telling(field string) int {
	switch field {
	case mustName:
		return 0
	case mustUser:
		return 1
	case mustGroup:
		return 2
	case mustKind:
		return 4
	}
	return 3 // a label
}

func newIndex(rules []*rule) index {
	x := index{by: map[must][]int{}}
	for i, r := range rules {
		if len(r.musts) == 0 {
			x.rest = append(x.rest, i)
			continue
		}
		best := slices.MinFunc(r.musts, func(a, b must) int { return telling(a.field) - telling(b.field) })
		x.by[best] = append(x.by[best], i)
	}
	return x
}

// candidates adds to out the rules that may match in, in the rules' order.
func (x index) candidates(in *Input, out []int) []int {
	out = append(out, x.rest...)
	out = append(out, x.by[must{mustName, in.Resource.Name}]...)
	out = append(out, x.by[must{mustKind, in.Resource.Kind}]...)
	out = append(out, x.by[must{mustUser, in.Requester.Name}]...)
	for k, v := range in.Resource.Labels {
		out = append(out, x.by[must{mustLabel + k, v}]...)
	}
	for _, g := range in.Requester.Groups {
		out = append(out, x.by[must{mustGroup, g}]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// met says whether in meets the must.
func (m must) met(in *Input) bool {
	switch m.field {
	case mustName:
		return in.Resource.Name == m.value
	case mustKind:
		return in.Resource.Kind == m.value
	case mustUser:
		return in.Requester.Name == m.value
	case mustGroup:
		return slices.Contains(in.Requester.Groups, m.value)
	}
	return in.Resource.Labels[strings.TrimPrefix(m.field, mustLabel)] == m.value
}

// String writes the must as a condition would.
func (m must) String() string {
	if m.field == mustGroup {
		return `"` + m.value + `" in ` + m.field
	}
	return m.field + ` == "` + m.value + `"`
}
