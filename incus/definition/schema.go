package definition

// Definition is what a YAML file says, with defaults filled in.
type Definition struct {
	Image       Image       `yaml:"image"`
	Source      Source      `yaml:"source"`
	Targets     Targets     `yaml:"targets,omitempty"`
	Files       []File      `yaml:"files,omitempty"`
	Packages    Packages    `yaml:"packages,omitempty"`
	Actions     []Action    `yaml:"actions,omitempty"`
	Mappings    Mappings    `yaml:"mappings,omitempty"`
	Environment Environment `yaml:"environment,omitempty"`
}

// Image says what the image is.
type Image struct {
	Description  string `yaml:"description"`
	Distribution string `yaml:"distribution"`
	Release      string `yaml:"release,omitempty"`
	Architecture string `yaml:"architecture,omitempty"`
	Expiry       string `yaml:"expiry,omitempty"`
	Variant      string `yaml:"variant,omitempty"`
	Name         string `yaml:"name,omitempty"`
	Serial       string `yaml:"serial,omitempty"`

	// Names of the architecture, which Parse computes: that of the distribution, that of
	// the kernel, and linux32 or linux64.
	ArchitectureMapped      string `yaml:"architecture_mapped,omitempty"`
	ArchitectureKernel      string `yaml:"architecture_kernel,omitempty"`
	ArchitecturePersonality string `yaml:"architecture_personality,omitempty"`
}

// Source says where the root file system comes from.
type Source struct {
	Downloader       string   `yaml:"downloader"`
	URL              string   `yaml:"url,omitempty"`
	Keys             []string `yaml:"keys,omitempty"`
	Keyserver        string   `yaml:"keyserver,omitempty"`
	Variant          string   `yaml:"variant,omitempty"`
	Suite            string   `yaml:"suite,omitempty"`
	SameAs           string   `yaml:"same_as,omitempty"`
	SkipVerification bool     `yaml:"skip_verification,omitempty"`
	Components       []string `yaml:"components,omitempty"`
}

// Targets says what is special to a kind of image.
type Targets struct {
	LXC   TargetLXC   `yaml:"lxc,omitempty"`
	Incus TargetIncus `yaml:"incus,omitempty"`
	// Type is the kind of the image that is being made. Parse sets it to Container.
	Type Type `yaml:"type"`
}

// TargetLXC is about images for LXC.
type TargetLXC struct {
	CreateMessage string      `yaml:"create_message,omitempty"`
	Config        []LXCConfig `yaml:"config,omitempty"`
}

// LXCConfig is a piece of the configuration of LXC.
type LXCConfig struct {
	Filter  `yaml:",inline"`
	Type    string `yaml:"type"`
	Before  uint   `yaml:"before,omitempty"`
	After   uint   `yaml:"after,omitempty"`
	Content string `yaml:"content"`
}

// TargetIncus is about images for Incus.
type TargetIncus struct {
	VM VM `yaml:"vm,omitempty"`
}

// VM is about the disk of a virtual machine.
type VM struct {
	// Size of the disk in bytes, 0 for a default.
	Size uint64 `yaml:"size,omitempty"`
	// Filesystem is ext4 or btrfs; "" is ext4.
	Filesystem string `yaml:"filesystem,omitempty"`
	// BootSize is the size of the EFI system partition in bytes, 0 for 100 MiB.
	BootSize uint64 `yaml:"boot_size,omitempty"`
}

// File is a file that a generator makes.
type File struct {
	Filter    `yaml:",inline"`
	Generator string       `yaml:"generator"`
	Path      string       `yaml:"path,omitempty"`
	Content   string       `yaml:"content,omitempty"`
	Name      string       `yaml:"name,omitempty"`
	Template  FileTemplate `yaml:"template,omitempty"`
	Templated bool         `yaml:"templated,omitempty"`
	Mode      string       `yaml:"mode,omitempty"`
	GID       string       `yaml:"gid,omitempty"`
	UID       string       `yaml:"uid,omitempty"`
	Pongo     bool         `yaml:"pongo,omitempty"`
	Source    string       `yaml:"source,omitempty"`
}

// FileTemplate says when Incus renders a template, and with which properties.
type FileTemplate struct {
	Properties map[string]string `yaml:"properties,omitempty"`
	When       []string          `yaml:"when,omitempty"`
}

// Packages says what is done with a package manager.
type Packages struct {
	Manager       string         `yaml:"manager,omitempty"`
	CustomManager *CustomManager `yaml:"custom_manager,omitempty"`
	Update        bool           `yaml:"update,omitempty"`
	Cleanup       bool           `yaml:"cleanup,omitempty"`
	Sets          []PackageSet   `yaml:"sets,omitempty"`
	Repositories  []Repository   `yaml:"repositories,omitempty"`
}

// CustomManager is a package manager by its commands.
type CustomManager struct {
	Clean   Command  `yaml:"clean"`
	Install Command  `yaml:"install"`
	Remove  Command  `yaml:"remove"`
	Refresh Command  `yaml:"refresh"`
	Update  Command  `yaml:"update"`
	Flags   []string `yaml:"flags,omitempty"`
}

// Command is a command with its flags.
type Command struct {
	Command string   `yaml:"cmd"`
	Flags   []string `yaml:"flags,omitempty"`
}

// PackageSet is a list of packages to be installed or removed.
type PackageSet struct {
	Filter   `yaml:",inline"`
	Packages []string `yaml:"packages"`
	Action   string   `yaml:"action"`
	Early    bool     `yaml:"early,omitempty"`
	Flags    []string `yaml:"flags,omitempty"`
}

// Repository is where a package manager finds packages.
type Repository struct {
	Filter `yaml:",inline"`
	Name   string `yaml:"name"`
	URL    string `yaml:"url"`
	Type   string `yaml:"type,omitempty"`
	Key    string `yaml:"key,omitempty"`
}

// Action is a script that runs in the root file system.
type Action struct {
	Filter  `yaml:",inline"`
	Trigger string `yaml:"trigger"`
	Action  string `yaml:"action"`
	Pongo   bool   `yaml:"pongo,omitempty"`
}

// Mappings say how the distribution names architectures.
type Mappings struct {
	Architectures   map[string]string `yaml:"architectures,omitempty"`
	ArchitectureMap string            `yaml:"architecture_map,omitempty"`
}

// Environment is that of scripts and package managers.
type Environment struct {
	ClearDefaults bool       `yaml:"clear_defaults,omitempty"`
	Variables     []Variable `yaml:"variables,omitempty"`
}

// Variable is a variable of the environment.
type Variable struct {
	Filter `yaml:",inline"`
	Key    string `yaml:"key"`
	Value  string `yaml:"value"`
}
