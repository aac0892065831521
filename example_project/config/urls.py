"""The two pages of the chat."""

from chat import views
from django.urls import path

urlpatterns = [
    path("", views.home, name="home"),
    path("rooms/<str:room>/", views.room, name="room"),
]
