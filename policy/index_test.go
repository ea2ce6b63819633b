package policy

import "testing"

// A condition that is nothing but musts isn't evaluated; whatever else there is in
// it has to be. What its musts say and what CEL says must be the same.
func TestMustsStandForTheWholeCondition(t *testing.T) {
	c, err := newCompiler(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		when         string
		musts        int
		whole, holds bool // of ask()
	}{
		{`true`, 0, true, true},
		{`false`, 0, false, false},
		{`resource.labels.env == "prod"`, 1, true, true},
		{`"prod" == resource.labels["env"] && resource.kind == "ssh"`, 2, true, true},
		{`resource.name == "ssh/web-1" && requester.name == "alice" && "dev" in requester.groups && true`, 3, true, true},
		{`resource.name == "ssh/web-1" && requester.name == "bob"`, 2, true, false},
		{`resource.labels.env == "prod" && "sre" in requester.groups`, 2, true, false},
		{`resource.labels.nothing == "x"`, 1, true, false},
		{`resource.labels.empty == ""`, 0, false, true},
		{`resource.labels.nothing == ""`, 0, false, true},
		{`resource.labels.env != "prod"`, 0, false, false},
		{`!(resource.labels.env == "prod")`, 0, false, false},
		{`resource.labels.env == "prod" || resource.kind == "vault"`, 0, false, true},
		{`(resource.labels.env == "prod" || true) && resource.kind == "ssh"`, 1, false, true},
		{`resource.kind == "ssh" && false`, 1, false, false},
		{`resource.kind == "ssh" && request.login == "deploy"`, 1, false, true},
		{`resource.kind == "ssh" && request.login == "root"`, 1, false, false},
		{`resource.kind == "ssh" ? true : false`, 0, false, true},
		{`resource.name == request.resource`, 0, false, true},
		{`"dev" in resource.logins`, 0, false, false},
	} {
		got, bad := c.compile(x.when)
		if len(bad) > 0 {
			t.Errorf("%s: %v", x.when, bad)
			continue
		}
		if len(got.musts) != x.musts || got.whole != x.whole {
			t.Errorf("%s: %d musts, whole %t; want %d, %t", x.when, len(got.musts), got.whole, x.musts, x.whole)
		}
		in := ask()
		holds, err := got.holds(newScope(&in))
		if err != nil || holds != x.holds {
			t.Errorf("%s: %t, %v", x.when, holds, err)
		}
		evaluated, err := condition{program: got.program}.holds(newScope(&in))
		if err != nil || evaluated != holds {
			t.Errorf("%s: %t, but CEL says %t, %v", x.when, holds, evaluated, err)
		}
	}
}
