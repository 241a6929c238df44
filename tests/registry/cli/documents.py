"""Resources as operators write them, for the tests of apply, get and delete."""

WEB = """\
apiVersion: nodemesh/v1
kind: Service
metadata: {name: web, labels: {team: shop}}
spec:
  ports: [{port: 80, targetPort: 8080, protocol: http}]
  selector: {app: web}
"""
WEB_ON_443 = WEB.replace("port: 80,", "port: 443,")
DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-web, namespace: shop}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: [default]}}]
"""
MESH = """\
apiVersion: nodemesh/v1
kind: Mesh
metadata: {name: mesh, namespace: nodemesh-system}
spec: {defaultAuthorization: deny}
"""
CANARY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}]
"""
RETRYING = """\
apiVersion: nodemesh/v1
kind: BackendPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  retries: {attempts: 3, on: [unsent, reset]}
"""
BAD_PORT = WEB.replace("port: 80,", "port: 80000,")
WEB_KEY = "services/default/web"
DENY_KEY = "authorizationpolicies/shop/deny-web"
CANARY_KEY = "httproutes/shop/canary"
RETRYING_KEY = "backendpolicies/shop/web"
