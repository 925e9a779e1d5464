// Package kubernetes runs the suite that Kubernetes has for what it stores, on the store of its API server, against
// the server at $KINE_TEST_SERVER (started with a progress interval of 1 s), or against an etcd of its own without one.
// Tests share that server: each has a prefix of its own.
//
// Left out are the suite's tests of objects that cannot be decoded: they need the store's unexported error.
package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"
)

const stored = "test!" // stands before each value, as an encryption provider's name would

var codec runtime.Codec

func init() {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	codec = apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)
}

// transformer can be exchanged while the store uses it.
type transformer struct {
	current atomic.Pointer[value.Transformer]
}

func (t *transformer) use(next value.Transformer) { t.current.Store(&next) }

func (t *transformer) TransformFromStorage(ctx context.Context, data []byte, about value.Context) ([]byte, bool, error) {
	return (*t.current.Load()).TransformFromStorage(ctx, data, about)
}

func (t *transformer) TransformToStorage(ctx context.Context, data []byte, about value.Context) ([]byte, error) {
	return (*t.current.Load()).TransformToStorage(ctx, data, about)
}

// served is an API server's store of pods, and what the suite wants to know of it.
type served struct {
	storage.Interface
	client      *kubernetes.Client
	prefix      string
	plain       *storagetesting.PrefixTransformer
	transformer *transformer
	compactor   interface{ CompactRevision() int64 }
}

func (s *served) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	changed := *s.plain
	s.transformer.use(modify(&changed))
	return func() { s.transformer.use(s.plain) }
}

func connect(t *testing.T) *kubernetes.Client {
	address := os.Getenv("KINE_TEST_SERVER")
	if address == "" {
		config := testserver.NewTestConfig(t)
		config.WatchProgressNotifyInterval = time.Second
		return testserver.RunEtcd(t, config)
	}
	client, err := kubernetes.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, recorder)
	client.Kubernetes = recorder
	return client
}

func serve(t *testing.T) (context.Context, *served) {
	client := connect(t)
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1 // the suite waits for keys with a TTL
	s := &served{
		client:      client,
		prefix:      "/" + strings.NewReplacer("/", "-", "=", "-").Replace(t.Name()),
		plain:       storagetesting.NewPrefixTransformer([]byte(stored), false),
		transformer: &transformer{},
		compactor:   compactor,
	}
	s.transformer.use(s.plain)
	store, err := etcd3.New(
		client, compactor, codec,
		func() runtime.Object { return &example.Pod{} },
		func() runtime.Object { return &example.PodList{} },
		s.prefix, "/pods/", schema.GroupResource{Resource: "pods"},
		s.transformer, leases, etcd3.NewDefaultDecoder(codec, storage.APIObjectVersioner{}), storage.APIObjectVersioner{},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	s.Interface = store
	return context.Background(), s
}

// holds finds what is stored at a key as the API server leaves it: without a resource version.
func (s *served) holds(ctx context.Context, t *testing.T, key string) {
	got, err := s.client.KV.Get(ctx, s.prefix+key)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, got, err)
	}
	object, err := runtime.Decode(codec, bytes.TrimPrefix(got.Kvs[0].Value, []byte(stored)))
	if err != nil {
		t.Fatal(err)
	}
	if pod := object.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("stored with %q and %q", pod.ResourceVersion, pod.SelfLink)
	}
}

// compact is what an API server's compactor does.
func (s *served) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	revision, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	for version, compacted := int64(0), int64(0); compacted != int64(revision); { // the first one tells the version
		version, _, compacted, err = etcd3.Compact(ctx, s.client.Client, version, int64(revision))
		if err != nil {
			t.Fatal(err)
		}
	}
	for utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		if s.compactor.CompactRevision() == int64(revision) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *served) increase(ctx context.Context, t *testing.T) int64 {
	put, err := s.client.KV.Put(ctx, s.prefix+"-other", "ok")
	if err != nil {
		t.Fatal(err)
	}
	return put.Header.Revision
}

// pages finds that a list has read each object once.
func (s *served) pages(t *testing.T, _, objects uint64) {
	if read := s.plain.GetReadsAndReset(); read != objects {
		t.Errorf("%d objects were read, not %d", read, objects)
	}
}

func (s *served) recorder() *storagetesting.KubernetesRecorder {
	return s.client.Kubernetes.(*storagetesting.KubernetesRecorder)
}

func with(t *testing.T, gate featuregate.Feature, on bool) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
}

// eitherWay runs a test with lists that are streamed, and with lists in pages.
func eitherWay(t *testing.T, test func(ctx context.Context, t *testing.T, s *served)) {
	for _, streamed := range []bool{false, true} {
		t.Run(fmt.Sprintf("streamed=%v", streamed), func(t *testing.T) {
			with(t, features.EtcdRangeStream, streamed)
			etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
			ctx, s := serve(t)
			streams := s.client.KV.(*storagetesting.KVRecorder)
			t.Cleanup(func() { // its parts have ended
				if read := streams.GetStreamReadsAndReset(); streamed != (read > 0) {
					t.Errorf("%d lists were streamed", read)
				}
			})
			test(ctx, t, s)
		})
	}
}

// TestInitialEvents comes first: some of it watches from revision 1, which others compact.
func TestInitialEvents(t *testing.T) {
	for name, test := range map[string]func(context.Context, *testing.T, storage.Interface){
		"WatchSemantics":                     storagetesting.RunWatchSemantics,
		"WatchSemanticInitialEventsExtended": storagetesting.RunWatchSemanticInitialEventsExtended,
		"WatchListMatchSingle":               storagetesting.RunWatchListMatchSingle,
	} {
		t.Run(name, func(t *testing.T) {
			eitherWay(t, func(ctx context.Context, t *testing.T, s *served) { test(ctx, t, s) })
		})
	}
}

func TestLists(t *testing.T) {
	t.Run("List", func(t *testing.T) {
		eitherWay(t, func(ctx context.Context, t *testing.T, s *served) {
			storagetesting.RunTestList(ctx, t, s, s.compact, false, s.recorder())
		})
	})
	t.Run("ConsistentList", func(t *testing.T) {
		eitherWay(t, func(ctx context.Context, t *testing.T, s *served) {
			storagetesting.RunTestConsistentList(ctx, t, s, s.increase, false, true, false)
		})
	})
	t.Run("GetListNonRecursive", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, s)
	})
	for name, test := range map[string]func(context.Context, *testing.T, storage.Interface, storagetesting.CallsValidation){
		"Continuation":           storagetesting.RunTestListContinuation,
		"PaginationRareObject":   storagetesting.RunTestListPaginationRareObject,
		"ContinuationWithFilter": storagetesting.RunTestListContinuationWithFilter,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := serve(t)
			test(ctx, t, s, s.pages)
		})
	}
	t.Run("InconsistentContinuation", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestListInconsistentContinuation(ctx, t, s, s.compact)
	})
	t.Run("CompactRevision", func(t *testing.T) {
		with(t, features.ListFromCacheSnapshot, true)
		ctx, s := serve(t)
		storagetesting.RunTestCompactRevision(ctx, t, s, s.increase, s.compact)
	})
}

func TestWatches(t *testing.T) {
	for name, test := range map[string]func(context.Context, *testing.T, storage.Interface){
		"Watch":                                  storagetesting.RunTestWatch,
		"ClusterScopedWatch":                     storagetesting.RunTestClusterScopedWatch,
		"NamespaceScopedWatch":                   storagetesting.RunTestNamespaceScopedWatch,
		"DeleteTriggerWatch":                     storagetesting.RunTestDeleteTriggerWatch,
		"WatchFromNonZero":                       storagetesting.RunTestWatchFromNonZero,
		"DelayedWatchDelivery":                   storagetesting.RunTestDelayedWatchDelivery,
		"WatchContextCancel":                     storagetesting.RunTestWatchContextCancel,
		"WatcherTimeout":                         storagetesting.RunTestWatcherTimeout,
		"WatchDeleteEventObjectHaveLatestRV":     storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
		"WatchInitializationSignal":              storagetesting.RunTestWatchInitializationSignal,
		"SendInitialEventsBackwardCompatibility": storagetesting.RunSendInitialEventsBackwardCompatibility,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := serve(t)
			test(ctx, t, s)
		})
	}
	for name, test := range map[string]func(context.Context, *testing.T, storagetesting.InterfaceWithPrefixTransformer){
		"WatchError":                        storagetesting.RunTestWatchError,
		"WatchErrorIsBlockingFurtherEvents": storagetesting.RunWatchErrorIsBlockingFurtherEvents,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := serve(t)
			test(ctx, t, s)
		})
	}
	t.Run("WatchFromZero", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestWatchFromZero(ctx, t, s, s.compact)
	})
	t.Run("ProgressNotify", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunOptionalTestProgressNotify(ctx, t, s, s.increase)
	})
	t.Run("WatchDispatchBookmarkEvents", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, false)
	})
}

// TestObjects comes last: some expire, which takes a revision, and lists count them.
func TestObjects(t *testing.T) {
	for name, test := range map[string]func(context.Context, *testing.T, storage.Interface){
		"CreateWithTTL":                          storagetesting.RunTestCreateWithTTL,
		"GuaranteedUpdateWithTTL":                storagetesting.RunTestGuaranteedUpdateWithTTL,
		"CreateWithKeyExist":                     storagetesting.RunTestCreateWithKeyExist,
		"Get":                                    storagetesting.RunTestGet,
		"UnconditionalDelete":                    storagetesting.RunTestUnconditionalDelete,
		"ConditionalDelete":                      storagetesting.RunTestConditionalDelete,
		"DeleteWithSuggestion":                   storagetesting.RunTestDeleteWithSuggestion,
		"DeleteWithSuggestionAndConflict":        storagetesting.RunTestDeleteWithSuggestionAndConflict,
		"DeleteWithConflict":                     storagetesting.RunTestDeleteWithConflict,
		"DeleteWithSuggestionOfDeletedObject":    storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
		"ValidateDeletionWithSuggestion":         storagetesting.RunTestValidateDeletionWithSuggestion,
		"ValidateDeletionWithOnlySuggestion":     storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
		"PreconditionalDeleteWithSuggestion":     storagetesting.RunTestPreconditionalDeleteWithSuggestion,
		"PreconditionalDeleteWithSuggestionPass": storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
		"GuaranteedUpdateWithConflict":           storagetesting.RunTestGuaranteedUpdateWithConflict,
		"GuaranteedUpdateWithSuggestionConflict": storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
		"ListPaging":                             storagetesting.RunTestListPaging,
		"GetListRecursivePrefix":                 storagetesting.RunTestGetListRecursivePrefix,
		"NamespaceScopedList":                    storagetesting.RunTestNamespaceScopedList,
		"KeySchema":                              storagetesting.RunTestKeySchema,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := serve(t)
			test(ctx, t, s)
		})
	}
	t.Run("Create", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestCreate(ctx, t, s, s.holds)
	})
	for name, test := range map[string]func(context.Context, *testing.T, storagetesting.InterfaceWithPrefixTransformer){
		"GuaranteedUpdateChecksStoredData": storagetesting.RunTestGuaranteedUpdateChecksStoredData,
		"TransformationFailure":            storagetesting.RunTestTransformationFailure,
		"ListResourceVersionMatch":         storagetesting.RunTestListResourceVersionMatch,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := serve(t)
			test(ctx, t, s)
		})
	}
	t.Run("GuaranteedUpdate", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.holds)
	})
	t.Run("Stats", func(t *testing.T) {
		ctx, s := serve(t)
		storagetesting.RunTestStats(ctx, t, s, codec, s.transformer, false)
	})
}
