from django.urls import path
from django.views.generic import TemplateView
from pay.views import bank

urlpatterns = [
    path("", TemplateView.as_view(template_name="room.html")),
    path("pay/", TemplateView.as_view(template_name="pay.html")),
    path("bank/<slug:order>/", bank),
]
