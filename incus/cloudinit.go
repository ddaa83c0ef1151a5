package incus

import (
	"fmt"

	"github.com/cowl-disk/cowl/incus/definition"
)

// preferNew is a template of Incus that takes the new name of a setting before the old one.
const preferNew = `{%%- if config_get("cloud-init.%[1]s", properties.default) == properties.default -%%}
{{ config_get("user.%[1]s", properties.default) }}
{%%- else -%%}
{{- config_get("cloud-init.%[1]s", properties.default) }}
{%%- endif %%}
`

const networkConfig = `{%%- if config_get("cloud-init.network-config", "") == "" -%%}
{%%- if config_get("user.network-config", "") == "" -%%}
%s
{%%- else -%%}
{{- config_get("user.network-config", "") -}}
{%%- endif -%%}
{%%- else -%%}
{{- config_get("cloud-init.network-config", "") -}}
{%%- endif %%}
`

const networkDefault = `version: 1
config:
  - type: physical
    name: {% if instance.type == "virtual-machine" %}enp5s0{% else %}eth0{% endif %}
    subnets:
      - type: dhcp
        control: auto`

// cloudInit adds a template for one of the files of cloud-init's NoCloud source.
func (i *Image) cloudInit(f definition.File) error {
	var content string
	properties := map[string]string{}
	switch f.Name {
	case "user-data", "vendor-data":
		content = fmt.Sprintf(preferNew, f.Name)
		properties["default"] = "#cloud-config\n{}"
	case "meta-data":
		content = "instance-id: {{ container.name }}\nlocal-hostname: {{ container.name }}\n{{ config_get(\"user.meta-data\", \"\") }}\n"
	case "network-config":
		settings := networkDefault
		if f.Content != "" {
			settings = f.Content
		}
		content = fmt.Sprintf(networkConfig, settings)
	default:
		return fmt.Errorf("unknown cloud-init configuration: %s", f.Name)
	}
	if f.Name != "network-config" && f.Content != "" {
		properties["default"] = f.Content
	}
	if len(f.Template.Properties) > 0 {
		properties = f.Template.Properties
	}
	path := "/var/lib/cloud/seed/nocloud-net/" + f.Name
	if f.Path != "" {
		path = f.Path
	}
	return i.addTemplate(path, "cloud-init-"+f.Name+".tpl", content, properties, nil)
}
