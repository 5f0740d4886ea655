// Command reference pushes and pulls images with the packages of the Go project that this one replaces, for comparison.
//
// Its store (pkg/oci) is used as it is: what takes the time of a push and of a pull is all in there. Its pkg/downloader
// needs Apple's framework to be compiled, so what that does around the store (oras.Copy with the default options, retried
// on errors) is done here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/agoda-com/macOS-vz-kubelet/pkg/event"
	"github.com/agoda-com/macOS-vz-kubelet/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
)

const artifactType = "application/vnd.agoda.macosvz.artifact"

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "pull":
		err = pull(context.Background(), os.Args[2], os.Args[3])
	case len(os.Args) == 7 && os.Args[1] == "push":
		err = push(context.Background(), os.Args[2], os.Args[3], os.Args[4], oci.NewMacOSConfig(os.Args[5], os.Args[6]))
	default:
		err = errors.New("usage: reference pull REF DIRECTORY | push REF DISK AUX HARDWARE_MODEL MACHINE_ID")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func repository(ref string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(ref)
	if err == nil {
		repo.PlainHTTP = true // the registry of the bench is on loopback
	}
	return repo, err
}

func pull(ctx context.Context, ref, directory string) (err error) {
	repo, err := repository(ref)
	if err != nil {
		return err
	}
	store, err := oci.New(directory, false, event.LogEventRecorder{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	tag := repo.Reference.Reference
	_, err = oras.Copy(ctx, repo, tag, store, tag, oras.DefaultCopyOptions)
	return err
}

// push compresses one file after the other, as oras-macos-vz does, and then uploads.
func push(ctx context.Context, ref, disk, aux string, config oci.Config) (err error) {
	repo, err := repository(ref)
	if err != nil {
		return err
	}
	store, err := oci.New(".", false, event.LogEventRecorder{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	files := []struct {
		kind oci.MediaType
		path string
	}{{oci.MediaTypeDiskImage, disk}, {oci.MediaTypeAuxImage, aux}}
	var layers []ocispec.Descriptor
	for _, file := range files {
		layer, err := store.Add(ctx, string(file.kind), file.path)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	layer, err := store.Set(ctx, config)
	if err != nil {
		return err
	}
	layers = append(layers, layer)
	described, err := store.GetManifestConfigDescriptor(ctx)
	if err != nil {
		return err
	}
	options := oras.PackManifestOptions{Layers: layers, ConfigDescriptor: &described}
	root, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, artifactType, options)
	if err != nil {
		return err
	}
	tag := repo.Reference.Reference
	if err = store.Tag(ctx, root, tag); err != nil {
		return err
	}
	_, err = oras.Copy(ctx, store, tag, repo, tag, oras.DefaultCopyOptions)
	return err
}
