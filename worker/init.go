package worker

import "errors"

// Initial says what Init found or made.
type Initial struct {
	Dir    string   `json:"dir"`
	Config string   `json:"config"` // for --config or HALLPASS_CONFIG
	You    Person   `json:"you"`
	Other  Person   `json:"other"` // the second example person
	Made   []string `json:"made"`  // files that weren't there and were made
}

// Init makes what hallpass needs in a folder, as Dev does at its first start,
// and starts nothing: the keys of the audit log and of the CAs, a
// configuration, and an example policy, directory and catalog to edit. What is
// there it leaves alone, so that it can be stopped anywhere and repeated. Without
// a name the folder is DevDir.
func Init(dir string, env func(string) string) (made Initial, err error) {
	if dir == "" {
		if dir, err = DevDir(env); err != nil {
			return Initial{}, err
		}
	}
	folder, err := Claim(dir)
	if err != nil {
		return Initial{}, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	c, files, err := furnish(folder, DevOptions{Env: env})
	if err != nil {
		return Initial{}, err
	}
	return Initial{Dir: folder.Path(), Config: c.File, You: files.you, Other: files.other, Made: files.names}, nil
}
