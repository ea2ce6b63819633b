package evidence

import (
	"hallpass/access"
	"hallpass/catalog"
	"hallpass/directory"
	"hallpass/policy"
)

// Rulebook is what evidence is judged by: one version of each of the three
// files, and, in a rulebook made by Under, Through or With, the locks, the
// delegations or what look-ups said. It never changes.
type Rulebook struct {
	Policy    *policy.Policy
	Directory *directory.Directory
	Catalog   *catalog.Catalog

	locks       Locks
	delegations Delegations
	facts       access.Facts
}

// Source is a file's name, as errors shall show it, and its bytes.
type Source struct {
	Name string
	Data []byte
}

// NewRulebook reads the three files from their bytes.
func NewRulebook(policyData, directoryData, catalogData []byte) (*Rulebook, error) {
	return ReadRulebook(Source{"policy.yaml", policyData}, Source{"directory.yaml", directoryData}, Source{"catalog.yaml", catalogData})
}

// ReadRulebook is NewRulebook with names of the caller's choice.
func ReadRulebook(pol, dir, cat Source) (*Rulebook, error) {
	d, err := directory.Parse(dir.Name, dir.Data)
	if err != nil {
		return nil, err
	}
	c, err := catalog.Parse(cat.Name, cat.Data)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(pol.Name, pol.Data)
	if err != nil {
		return nil, err
	}
	return &Rulebook{Policy: p, Directory: d, Catalog: c}, nil
}

// Digests names the versions of the three files.
func (r *Rulebook) Digests() access.Digests {
	return access.Digests{Policy: r.Policy.Digest(), Directory: r.Directory.Digest(), Catalog: r.Catalog.Digest()}
}
